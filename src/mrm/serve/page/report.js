// What the pre-trained model does with the selected image: it fills in a report, and restores masked patches.

import { $, element } from "./elements.js";
import { request } from "./requests.js";
import { viewer } from "./viewer.js";

let seed = 0;

/** The answer about the selected image; nothing if another is selected, or opened, meanwhile. */
async function askOfActive(path, fields) {
  const tile = viewer.active;
  const answer = await request(path, { image: tile.file, ...fields }, { signal: tile.study.stops.images.signal });
  return tile === viewer.active ? answer : null;
}

export async function fillIn() {
  const report = $("report").value;
  $("filled").replaceChildren();
  const answer = await askOfActive("/fill-in", { report, top: 5 });
  if (!answer) return;
  // A form is sent with CRLF line ends. The service counts characters, JavaScript strings count UTF-16 units.
  const characters = [...report.replaceAll("\n", "\r\n")];
  const filled = element("p", { className: "read" });
  let position = 0;
  for (const blank of answer.blanks) {
    const best = blank.with_image[0];
    filled.append(characters.slice(position, blank.start).join(""), element("mark", { textContent: best ? best.word : "____" }));
    position = blank.end;
  }
  filled.append(characters.slice(position).join(""));
  const tables = answer.blanks.map((blank, i) => blankTable(blank, i + 1));
  $("filled").append(filled, element("div", { className: "blanks" }, ...tables));
}

function blankTable(blank, number) {
  const rows = blank.with_image.map((word, i) => element("tr", {}, wordCell(word), wordCell(blank.without_image[i])));
  const head = element("tr", {}, ...["with this image", "without the image"].map((textContent) => element("th", { scope: "col", textContent })));
  return element("table", {}, element("caption", { textContent: `Blank ${number}` }), element("thead", {}, head), element("tbody", {}, ...rows));
}

function wordCell(word) {
  if (!word) return element("td");
  return element("td", {}, word.word, element("span", { textContent: word.probability.toFixed(3) }));
}

export async function restore() {
  const answer = await askOfActive("/reconstruct", { seed });
  if (!answer) return;
  seed += 1;
  const figures = [
    ["masked", "masked, as the model sees it"], ["restored", "restored"], ["original", "original"],
    ["residual", "difference, brighter where larger"],
  ];
  $("restored").replaceChildren(...figures.map(([key, about]) => element("figure", {},
    element("img", { src: `data:image/png;base64,${answer[key]}`, alt: about }),
    element("figcaption", { textContent: key === "restored" ? `${about}; error ${answer.error.toFixed(2)}` : about }),
  )));
  $("restore-go").textContent = "Mask other patches";
}

export function clearReport() {
  seed = 0;
  $("restore-go").textContent = "Mask and restore";
  for (const place of ["filled", "restored"]) $(place).replaceChildren();
}
