// The search page: the box, the results and the address, which always says what is shown.
import { $, ask, element, Refused } from "/kit.js";
import { moveFocus, setupPhotos, showPhotos } from "/photos.js";

const EXAMPLES = [
  "a man in a red shirt",
  "a woman in a yellow dress",
  "black backpack, blue jeans",
  "a person with an umbrella",
];
const STEPS = [48, 96, 200]; // photos shown, then after "Show more"
const UPLOAD_BYTES = 10 * 2 ** 20;
const TYPES = ["image/jpeg", "image/png", "image/webp"];

const answers = new Map(); // address -> what was found there, so that going back is immediate
const uploads = new Map(); // number -> file; uploads are in no address and leave with the page
const EMPTY = { q: "", like: null, upload: null, without: [], folder: "" };
let query = EMPTY;
let found = null;
let running = null;

function addFolder(name) {
  if ([...$("folder").options].some((one) => one.value === name)) return;
  $("folder").append(element("option", { value: name }, name));
}

async function setupFolders(choose) {
  $("folder").onchange = () => choose($("folder").value);
  const names = await ask("/api/folders").catch(() => []); // searches work without the list
  names.forEach(addFolder);
  $("folders").hidden = $("folder").options.length < 2;
}

function showFolder(name) {
  addFolder(name); // an address may name a folder that is deeper than the list goes
  $("folder").value = name;
}

function address({ q, like, upload, without, folder }, k) {
  const words = new URLSearchParams();
  if (q) words.set("q", q);
  if (like !== null) words.set("like", like);
  if (upload !== null) words.set("upload", upload);
  for (const one of without) words.append("without", one);
  if (folder) words.set("folder", folder);
  if (k) words.set("k", k);
  return words.toString();
}

function fromAddress() {
  const words = new URLSearchParams(location.search);
  const number = (name) => (/^\d{1,9}$/.test(words.get(name) ?? "") ? Number(words.get(name)) : null);
  return {
    q: (words.get("q") ?? "").trim(),
    like: number("like"),
    upload: number("upload"),
    without: words.getAll("without"),
    folder: words.get("folder") ?? "",
  };
}

const isEmpty = (one) => !one.q && one.like === null && one.upload === null;
const pause = (ms) => new Promise((done) => setTimeout(done, ms));

function search(next, { k = STEPS[0] } = {}) {
  query = next;
  const line = address(next);
  const target = line ? `/?${line}` : "/";
  if (target !== location.pathname + location.search) history.pushState(null, "", target);
  return show(k);
}

async function show(k = STEPS[0]) {
  running?.abort();
  fillForm();
  document.body.classList.toggle("searched", !isEmpty(query));
  document.title = query.q ? `${query.q} · Find a person` : "Find a person";
  if (isEmpty(query)) {
    found = null;
    $("found").hidden = true;
    return notify(null);
  }
  const known = answers.get(address(query));
  if (known && known.results.length >= Math.min(k, known.total)) return render(known);
  const mine = (running = new AbortController());
  const slow = setTimeout(() => notify({ title: "Searching …", waiting: true }), 500);
  $("found").classList.add("old");
  try {
    const answer = await request(k, mine.signal);
    if (mine.signal.aborted) return;
    answers.delete(address(query));
    answers.set(address(query), answer);
    if (answers.size > 20) answers.delete(answers.keys().next().value);
    render(answer);
  } catch (error) {
    if (error.name !== "AbortError" && !mine.signal.aborted) explain(error, () => show(k));
  } finally {
    clearTimeout(slow);
    if (running === mine) $("found").classList.remove("old");
  }
}

async function request(k, signal) {
  const { upload } = query;
  const options = { signal };
  let line = `/api/search?${address({ ...query, upload: null }, k)}`;
  if (upload !== null) {
    if (!uploads.has(upload)) throw new Refused("An example photo is not kept. Choose it again.", 410);
    options.method = "POST";
    options.body = uploads.get(upload);
  }
  for (let tries = 0; ; tries++) {
    try {
      return await ask(line, options);
    } catch (error) {
      if (error.status !== 503 || tries > 2) throw error;
      if (!(await ready(signal))) throw error;
    }
  }
}

// Waits while the model loads; false if the gallery cannot be opened.
async function ready(signal) {
  for (;;) {
    const status = await ask("/api/status", { signal });
    showStatus(status);
    if (status.state === "failed") return false;
    await pause(700);
    if (status.state === "ready") return true;
  }
}

function explain(error, again) {
  $("found").hidden = !found;
  const titles = { 0: "The server does not answer", 410: "This photo is not here any more", 422: "This cannot be searched" };
  const title = titles[error.status] ?? (error.status === 503 ? "Not yet" : "Something went wrong");
  notify({ title, text: error.message, fault: true, again });
}

function notify(what) {
  const box = $("notice");
  box.hidden = !what;
  box.replaceChildren();
  box.className = what ? (what.waiting ? "waiting" : what.fault ? "fault" : "") : "";
  if (!what) return;
  box.append(element("strong", {}, what.title));
  if (what.text) {
    const pieces = what.text.split("`").map((piece, i) => (i % 2 ? element("code", {}, piece) : piece));
    box.append(element("p", {}, ...pieces));
  }
  if (what.again) {
    const button = element("button", { type: "button", className: "secondary", id: "again" }, "Try again");
    button.addEventListener("click", what.again);
    box.append(button);
  }
}

function showStatus(status) {
  const changed = [];
  if (status.new) changed.push(`${status.new} new`);
  if (status.missing) changed.push(`${status.missing} missing`);
  const stale = changed.length ? ` · ${changed.join(", ")}: index again` : "";
  $("gallery").textContent = status.state === "ready" ? `${count(status.photos)}${stale}` : "";
  $("gallery").title = status.model;
  const ratio = Math.min(1.5, Math.max(0.375, status.aspect));
  const page = document.documentElement.style;
  page.setProperty("--ratio", ratio);
  page.setProperty("--column", `${Math.round(152 * Math.sqrt(ratio / 0.5))}px`);
  if (status.state === "loading")
    notify({ title: "The model is loading", text: "A search you start now runs as soon as it is there.", waiting: true });
  if (status.state === "failed")
    notify({ title: "This gallery cannot be searched", text: status.message, fault: true, again: start });
  if (status.state === "ready" && !status.photos)
    notify({ title: "This gallery is empty", text: "Index a folder that holds photos: `python -m ivt_jax index PHOTOS --run=RUN --out=GALLERY`" });
}

async function start() {
  try {
    for (;;) {
      const status = await ask("/api/status");
      showStatus(status);
      if (status.state === "ready") {
        if (status.photos) notify(null);
        break;
      }
      await pause(status.state === "failed" ? 4000 : 600);
    }
    show();
    setupFolders((folder) => search({ ...query, folder }));
    setTimeout(refresh, 2500); // by then the folder has been compared with the index
  } catch (error) {
    explain(error, start);
  }
}

const refresh = () => ask("/api/status").then(showStatus, () => {});

const count = (n) => `${n.toLocaleString("en")} photo${n === 1 ? "" : "s"}`;

function render(answer) {
  const grown = found && answer !== found && $("grid").dataset.for === address(query);
  found = answer;
  notify(null);
  $("found").hidden = false;
  $("found").classList.remove("old");
  const without = query.without.length ? `, without ${query.without.join(" and ")}` : "";
  const inside = query.folder ? ` in ${query.folder}` : "";
  $("headline").textContent = `${count(answer.total)}${inside}, best match first${without}`;
  showHint(answer);
  drawHistogram(answer);
  showPhotos(answer, { sentence: query.q, grown });
  $("grid").dataset.for = address(query);
  $("more").hidden = answer.results.length >= Math.min(answer.total, STEPS.at(-1));
}

function showHint({ results, floor, notes }) {
  const best = results[0]?.score ?? 0;
  const weak = floor !== null && best <= floor;
  const parts = [...notes];
  if (weak)
    parts.push(`No good match: the best score, ${best.toFixed(2)}, is no higher than unrelated sentences reach here (${floor.toFixed(2)}). Try other words.`);
  if (!parts.length) parts.push(`The best photo scores ${best.toFixed(2)}; the ${results.length} shown are coloured among all.`);
  $("hint").textContent = parts.join(" ");
  $("hint").classList.toggle("weak", weak || notes.length > 0);
}

function drawHistogram({ results, floor, total, histogram: { low, high, counts } }) {
  const svg = (name, values) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(values)) made.setAttribute(key, value);
    return made;
  };
  const width = 300, height = 52, step = width / counts.length, tallest = Math.max(...counts);
  const least = results.at(-1)?.score ?? high;
  const picture = svg("svg", { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", role: "img" });
  picture.setAttribute("aria-label", `Scores of all ${total} photos, from ${low.toFixed(2)} to ${high.toFixed(2)}; the photos shown score ${least.toFixed(2)} and more`);
  counts.forEach((n, i) => {
    const top = low + ((i + 1) * (high - low)) / counts.length;
    const tall = height * Math.sqrt(n / tallest); // few photos must stay visible beside many
    const bar = svg("rect", { x: i * step + 0.75, y: height - tall, width: step - 1.5, height: tall, rx: 1 });
    if (top > least) bar.classList.add("shown");
    picture.append(bar);
  });
  const marked = floor !== null && floor > low && floor < high;
  if (marked) {
    const x = ((floor - low) / (high - low)) * width;
    picture.append(svg("line", { x1: x, x2: x, y1: 0, y2: height }));
  }
  const note = marked ? "all photos ┆ unrelated sentences" : "all photos";
  $("histogram").replaceChildren(picture, element("figcaption", {}, ...[low.toFixed(2).replace("-", "−"), note, high.toFixed(2)].map((text) => element("span", {}, text))));
}

function moreLike(result) {
  scrollTo({ top: 0 });
  search({ ...query, q: "", like: result.id, upload: null });
}

function fillForm() {
  const box = $("query");
  if (box.value.trim() !== query.q) box.value = query.q;
  grow();
  const example = $("example");
  if (example.firstChild?.src?.startsWith("blob:")) URL.revokeObjectURL(example.firstChild.src);
  example.hidden = query.like === null && query.upload === null;
  example.replaceChildren();
  if (!example.hidden) {
    const file = uploads.get(query.upload);
    const source = query.like === null ? file && URL.createObjectURL(file) : `/api/photos/${query.like}/small`;
    if (source) example.append(element("img", { src: source, alt: "" }));
    const text = query.like === null ? `like ${file?.name ?? "an example photo"}` : `like photo ${query.like}`;
    example.append(element("span", {}, text), removal("Remove the example photo", () => search({ ...query, like: null, upload: null })));
  }
  box.hidden = !example.hidden;
  showFolder(query.folder);
  $("exclusions").replaceChildren(...query.without.map((words) => element("li", { className: "chip" }, element("span", {}, words),
    removal(`Do not leave out ${words}`, () => exclude(query.without.filter((one) => one !== words))))));
  $("leave").hidden = isEmpty(query) && !query.without.length ? true : !$("without").hidden || query.without.length >= 5;
}

function removal(label, action) {
  const cross = $("close").querySelector("svg").cloneNode(true);
  const button = element("button", { type: "button", className: "quiet", ariaLabel: label }, cross);
  button.addEventListener("click", action);
  return button;
}

function exclude(without) {
  return search({ ...query, without });
}

function grow() {
  const box = $("query");
  box.style.height = "auto";
  box.style.height = `${box.scrollHeight}px`;
}

function submit() {
  const q = $("query").value.replace(/\s+/g, " ").trim();
  if (!$("query").hidden) return search({ ...query, q, like: null, upload: null });
  return show();
}

function take(file) {
  if (!file) return;
  if (!TYPES.includes(file.type)) return explain(new Refused("An example must be a JPEG, PNG or WebP photo.", 422), null);
  if (file.size > UPLOAD_BYTES) return explain(new Refused("An example photo may have 10 MB.", 422), null);
  const number = Date.now() % 1e9;
  uploads.set(number, file);
  search({ ...query, q: "", like: null, upload: number });
}

function onKey(event) {
  const typing = event.target.matches("textarea, input");
  if ($("photo").open || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "/" && !typing) {
    event.preventDefault();
    $("query").focus();
    $("query").select();
  } else if (event.key === "Escape" && !typing) {
    $("query").focus();
  } else if (event.key === "ArrowDown" && event.target === $("query") && found) {
    event.preventDefault();
    $("grid").querySelector(".card")?.focus();
  } else if (event.key.startsWith("Arrow") && event.target.matches(".card")) {
    moveFocus(event);
  }
}

$("form").addEventListener("submit", (event) => { event.preventDefault(); submit(); });
$("home").addEventListener("click", (event) => {
  event.preventDefault();
  search(EMPTY);
  $("query").focus();
});
$("query").addEventListener("input", grow);
$("query").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.isComposing) { event.preventDefault(); submit(); }
  if (event.key === "Escape" && $("query").value) { $("query").value = ""; grow(); }
});
$("examples").append(...EXAMPLES.map((words) => {
  const button = element("button", { type: "button" }, words);
  button.addEventListener("click", () => search({ ...EMPTY, q: words }));
  return button;
}));
$("leave").addEventListener("click", () => { $("leave").hidden = true; $("without").hidden = false; $("without").focus(); });
$("without").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" && event.key !== "Escape") return;
  event.preventDefault();
  const words = $("without").value.trim();
  $("without").value = "";
  $("without").hidden = true;
  if (event.key === "Enter" && words && !query.without.includes(words)) exclude([...query.without, words]);
  else fillForm();
  $("query").focus();
});
$("pick").addEventListener("click", () => $("file").click());
$("file").addEventListener("change", () => { take($("file").files[0]); $("file").value = ""; });
$("more").addEventListener("click", () => show(STEPS.find((k) => k > found.results.length) ?? STEPS.at(-1)));
addEventListener("keydown", onKey);
addEventListener("popstate", () => { query = fromAddress(); show(); });
addEventListener("dragover", (event) => { event.preventDefault(); $("drop").hidden = !event.dataTransfer.types.includes("Files"); });
addEventListener("dragleave", (event) => { if (!event.relatedTarget) $("drop").hidden = true; });
addEventListener("drop", (event) => { event.preventDefault(); $("drop").hidden = true; take(event.dataTransfer.files[0]); });
addEventListener("paste", (event) => { if (event.clipboardData.files.length) { event.preventDefault(); take(event.clipboardData.files[0]); } });
document.addEventListener("visibilitychange", () => { if (!document.hidden && found) refresh(); });

setupPhotos(moreLike);
query = fromAddress();
document.body.classList.toggle("searched", !isEmpty(query));
fillForm();
if (isEmpty(query)) $("query").focus();
start();
