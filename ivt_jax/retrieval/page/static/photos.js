// The photos found: the grid of them, and one looked at closely, with what each word adds to its
// score and where the model finds it.
import { $, ask, element } from "/kit.js";

const DARK = [14, 18, 24, 0.78]; // where the model does not look
const LIGHT = [255, 176, 60, 0.22]; // where it does
let listed = { results: [], sentence: "" }; // in the grid
let shown = { ...listed, at: 0 }; // looked at closely
let reading = null;

export function setupPhotos(moreLike) {
  $("grid").addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    const at = Number(button.dataset.index);
    if (button.matches(".alike")) moreLike(listed.results[at]);
    else openPhoto(at);
  });
  $("grid").addEventListener("focusin", (event) => {
    if (!event.target.matches(".card")) return;
    $("grid").querySelector('.card[tabindex="0"]')?.setAttribute("tabindex", "-1");
    event.target.tabIndex = 0;
  });
  $("close").addEventListener("click", () => $("photo").close());
  $("photo").addEventListener("click", (event) => { if (event.target === $("photo")) $("photo").close(); });
  $("photo").addEventListener("close", () => {
    reading?.abort();
    document.querySelector(`.card[data-index="${shown.at}"]`)?.focus();
  });
  $("photo").addEventListener("keydown", (event) => {
    if (event.key === "ArrowRight") step(1);
    if (event.key === "ArrowLeft") step(-1);
  });
  $("previous").addEventListener("click", () => step(-1));
  $("next").addEventListener("click", () => step(1));
  $("like").addEventListener("click", () => { $("photo").close(); moreLike(shown.results[shown.at]); });
  $("copy").addEventListener("click", copy);
  $("large").addEventListener("load", () => {
    const { naturalWidth: width, naturalHeight: height } = $("large");
    $("large").parentNode.style.setProperty("--shape", width / height);
  });
  $("large").addEventListener("error", () => { $("reading").textContent = "This photo cannot be shown any more."; });
}

// Fills the grid; `grown`: with more photos of what is in it already.
export function showPhotos(answer, { sentence, grown }) {
  listed = { results: answer.results, sentence };
  const cards = answer.results.map((result, i) => card(result, i, answer));
  if (grown) $("grid").append(...cards.slice($("grid").children.length));
  else $("grid").replaceChildren(...cards);
  const first = $("grid").querySelector(".card");
  if (first && !$("grid").querySelector('.card[tabindex="0"]')) first.tabIndex = 0;
}

function card(result, i, { floor, histogram: { low, high } }) {
  const picture = element("img", { loading: "lazy", decoding: "async", alt: `Match ${i + 1}: ${result.path}` });
  const frame = element("span", { className: "frame" }, picture);
  picture.addEventListener("error", () => {
    frame.classList.add("gone");
    frame.replaceChildren("This photo cannot be shown any more");
  });
  picture.src = `/api/photos/${result.id}/small`;
  const weak = floor !== null && result.score <= floor; // no better than chance
  const level = element("span", { className: weak ? "level weak" : "level" });
  level.style.setProperty("--at", `${(100 * (result.score - low)) / (high - low || 1)}%`);
  const meta = element("span", { className: "meta" },
    element("span", { className: "rank" }, String(i + 1)),
    element("span", { className: "score", title: "cosine similarity" }, result.score.toFixed(3)));
  const name = element("span", { className: "name", title: result.path }, result.path.split("/").at(-1));
  const button = element("button", { type: "button", className: "card", tabIndex: -1 }, frame, level, meta, name);
  button.dataset.index = i;
  const alike = element("button", { type: "button", className: "alike", tabIndex: -1 }, "More like this");
  alike.dataset.index = i;
  return element("li", {}, button, alike);
}

export function moveFocus(event) {
  const cards = [...$("grid").querySelectorAll(".card")];
  const at = cards.indexOf(event.target);
  const top = cards[0].offsetParent ? (one) => one.parentNode.offsetTop : () => 0;
  const next = cards.findIndex((one) => top(one) > top(cards[0]));
  const columns = next < 0 ? cards.length : next;
  const by = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[event.key];
  event.preventDefault();
  if (event.key === "ArrowUp" && at < columns) return $("query").focus();
  const target = cards[Math.min(cards.length - 1, Math.max(0, at + by))];
  target.focus();
  target.scrollIntoView({ block: "nearest" });
}

function openPhoto(at) {
  shown = { ...listed, at };
  $("photo").showModal();
  fill();
}

function step(by) {
  const at = shown.at + by;
  if (at < 0 || at >= shown.results.length) return;
  shown.at = at;
  fill();
}

function fill() {
  const { results, at, sentence } = shown;
  const result = results[at];
  $("photo-title").textContent = `Match ${at + 1}`;
  $("photo-title").append(element("span", { className: "score" }, `  ${result.score.toFixed(3)}`));
  $("path").textContent = result.path;
  $("copy").textContent = "Copy path";
  $("large").alt = `Match ${at + 1}: ${result.path}`;
  $("large").src = `/api/photos/${result.id}/large`;
  $("previous").disabled = at === 0;
  $("next").disabled = at === results.length - 1;
  $("heat").classList.remove("lit");
  if (sentence) read(result, sentence);
  else $("reading").replaceChildren(element("p", {}, "Found by its likeness to the example photo."));
}

async function copy() {
  try {
    await navigator.clipboard.writeText(shown.results[shown.at].path);
    $("copy").textContent = "Copied";
  } catch {
    getSelection().selectAllChildren($("path")); // without permission the reader copies it
  }
}

async function read(result, sentence) {
  reading?.abort();
  const mine = (reading = new AbortController());
  $("reading").replaceChildren(element("p", { className: "sentence" }, sentence), element("h3", {}, "Reading the photo …"));
  try {
    const answer = await ask(`/api/words/${result.id}?${new URLSearchParams({ q: sentence })}`, { signal: mine.signal });
    if (!mine.signal.aborted) showWords(answer);
  } catch (error) {
    if (error.name !== "AbortError") $("reading").querySelector("h3").textContent = error.message;
  }
}

function showWords(answer) {
  const largest = Math.max(...answer.adds.map(Math.abs), 1e-9);
  const line = element("p", { className: "sentence" });
  const letters = [...shown.sentence]; // spans count characters, as Python does
  let at = 0;
  answer.spans.forEach(([start, end], i) => {
    line.append(letters.slice(at, start).join(""), word(answer.words[i], i, answer, largest));
    at = end;
  });
  line.append(letters.slice(at).join(""));
  const order = answer.words.map((_, i) => i).sort((a, b) => Math.abs(answer.adds[b]) - Math.abs(answer.adds[a]));
  const bars = element("ul", { className: "bars" }, ...order.slice(0, 7).map((i) => bar(answer.words[i], answer.adds[i], largest)));
  $("reading").replaceChildren(
    element("h3", {}, "Point at a word to see where the model finds it"), line,
    element("h3", {}, "What each word adds to the score"), bars);
}

function word(text, i, answer, largest) {
  const button = element("button", { type: "button", className: "word", ariaPressed: "false" }, text);
  const part = Math.abs(answer.adds[i]) / largest;
  button.style.setProperty("--thick", `${1 + Math.round(4 * part)}px`);
  if (part > 0.15) button.style.setProperty("--tint", answer.adds[i] > 0 ? "var(--accent)" : "var(--warm)");
  const light = () => draw(answer.maps[i], answer.rows, answer.columns);
  const dim = () => {
    const pinned = $("reading").querySelector(".word.on");
    if (pinned) pinned.dispatchEvent(new Event("light"));
    else $("heat").classList.remove("lit");
  };
  button.addEventListener("light", light);
  for (const name of ["mouseenter", "focus"]) button.addEventListener(name, light);
  for (const name of ["mouseleave", "blur"]) button.addEventListener(name, dim);
  button.addEventListener("click", () => {
    const pin = !button.classList.contains("on");
    for (const other of $("reading").querySelectorAll(".word")) {
      other.classList.toggle("on", pin && other === button);
      other.ariaPressed = String(pin && other === button);
    }
    light();
  });
  return button;
}

function bar(text, value, largest) {
  const fill = element("i");
  fill.style.setProperty("--size", `${(50 * Math.abs(value)) / largest}%`);
  return element("li", {}, element("span", {}, text),
    element("span", { className: value < 0 ? "bar less" : "bar", ariaHidden: "true" }, fill),
    element("span", { className: "value" }, `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(3)}`));
}

// The photo turns dark but for the light of the map: smooth, as the map is coarse.
function draw(map, rows, columns) {
  const small = element("canvas", { width: columns, height: rows });
  const pixels = new ImageData(columns, rows);
  map.forEach((value, i) => {
    for (let c = 0; c < 4; c++) {
      const mixed = DARK[c] + (LIGHT[c] - DARK[c]) * value;
      pixels.data[4 * i + c] = c === 3 ? Math.round(255 * mixed) : Math.round(mixed);
    }
  });
  small.getContext("2d").putImageData(pixels, 0, 0);
  const canvas = $("heat");
  canvas.width = columns * 16;
  canvas.height = rows * 16;
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(small, 0, 0, canvas.width, canvas.height);
  canvas.classList.add("lit");
}
