// The folder that a search is limited to: a small list beside the exclusions, if there are any.
import { $, ask, element } from "/kit.js";

function add(name) {
  if ([...$("folder").options].some((one) => one.value === name)) return;
  $("folder").append(element("option", { value: name }, name));
}

export async function setupFolders(choose) {
  $("folder").onchange = () => choose($("folder").value);
  const names = await ask("/api/folders").catch(() => []); // searches work without the list
  names.forEach(add);
  $("folders").hidden = $("folder").options.length < 2;
}

export function showFolder(name) {
  add(name); // an address may name a folder that is deeper than the list goes
  $("folder").value = name;
}
