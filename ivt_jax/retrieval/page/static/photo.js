// One photo, looked at closely: what each word adds to its score, and where the model finds it.
import { $, ask, element } from "/kit.js";

const DARK = [14, 18, 24, 0.78]; // where the model does not look
const LIGHT = [255, 176, 60, 0.22]; // where it does
let shown = { results: [], at: 0, sentence: "" };
let reading = null;

export function setupPhoto(moreLike) {
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

export function openPhoto(results, at, sentence) {
  shown = { results, at, sentence };
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
