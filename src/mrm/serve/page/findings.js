// The answer: findings with their thresholds, those of the prior study beside them, and what in the images raises them.

import { $, asSentence, element, showMessage, showStatus } from "./elements.js";
import { CLASS_COLOURS, HEAT_COLOURS } from "./palette.js";
import { colourCover, decodeGrey } from "./pixels.js";
import { attempt, can, request } from "./requests.js";
import { allTiles, doubtsOfPrior, studies } from "./study.js";

export const METHODS = {
  gradcam: { name: "gradient", about: "which patches raise this probability, not where disease is" },
  attention: { name: "attention of the head", about: "which patches the head takes for this finding" },
  rollout: { name: "attention", about: "what the model attends to, the same for every finding" },
};

export const selection = { finding: "" };

/** The answer about the current study, as far as it is there. */
export function showAnswer() {
  const { prediction } = studies.current;
  showWarnings();
  for (const row of document.querySelectorAll("#findings > label")) row.remove();
  $("answer-problem").hidden = true;
  $("pool-line").hidden = !Object.values(studies).some((study) => study.used.length > 1);
  for (const id of ["save-json", "save-csv"]) $(id).disabled = !prediction;
  const { tiles, used } = studies.current;
  $("save-dicom").hidden = !can("dicom") || !prediction || !used.every((tile) => tile.sent.is_dicom);
  $("save-dicom").textContent = prediction?.mask ? "DICOM segmentation" : "DICOM report";
  if (!prediction) {
    const none = tiles.length && tiles.every((tile) => tile.sent.left_out) ? "No image of the current study counts for an answer." : "Tick at least one image of the current study.";
    showMessage("findings-about", can("predict") && !used.length ? none : "");
    return;
  }
  listFindings(prediction);
}

function showWarnings() {
  const { current, prior } = studies;
  const ofPrior = (texts) => texts.map((text) => `prior study: ${text}`);
  const said = (study) => study.prediction?.warnings ?? study.tiles.flatMap((tile) => tile.sent.warnings);
  const texts = [...current.problems, ...said(current), ...ofPrior([...prior.problems, ...said(prior)]), ...doubtsOfPrior()];
  $("warnings").replaceChildren(...texts.map((text) => element("li", { textContent: asSentence(text) })));
  $("warnings").hidden = !texts.length;
}

function listFindings(prediction) {
  const explains = can("explain") || Boolean(prediction.mask);
  const order = [...prediction.findings].sort((a, b) => Number(b.decision) - Number(a.decision) || b.probability - a.probability);
  $("findings").append(...order.map((finding) => findingRow(finding, explains)));
  if (explains) $("findings").append(noOverlayRow());
  const decided = prediction.findings.filter((finding) => finding.decision !== null);
  const above = decided.filter((finding) => finding.decision);
  let hint = "";
  if (prediction.mask) hint = "Select one to see its outline.";
  else if (explains) hint = "Select one to see what in the images raises it.";
  const from = prediction.images > 1 ? ` from ${prediction.images} images together` : "";
  const beside = studies.prior.prediction ? " Beside it stands that of the prior study." : "";
  showMessage("findings-about", `Probability of each finding from this model${from}; the vertical mark is its threshold.${beside} ${hint}`);
  if (prediction.abstain) showStatus("Done. The model abstains from a decision on these images.");
  else if (prediction.mask) showStatus(`Done. ${above.length} of ${order.length} findings outlined.`);
  else if (decided.length) showStatus(`Done. ${above.length} of ${decided.length} findings with a threshold are at or above it.`);
  else showStatus(`Done. ${order.length} findings; this model has no thresholds, so it makes no decisions.`);
}

function findingRow(finding, explains) {
  const label = element("label", { className: `finding${finding.decision ? " above" : ""}${explains ? "" : " plain"}` });
  label.dataset.finding = finding.finding;
  const isSelected = finding.finding === selection.finding;
  const radio = element("input", { type: "radio", name: "finding", value: finding.finding, disabled: !explains, checked: isSelected });
  radio.addEventListener("change", () => selectFinding(finding.finding));
  const bar = element("span", { className: "bar", ariaHidden: "true" }, element("i"));
  bar.firstChild.style.width = `${100 * finding.probability}%`;
  if (finding.threshold !== null) {
    bar.append(element("b"));
    bar.lastChild.style.left = `${100 * finding.threshold}%`;
  }
  const prior = studies.prior.prediction?.findings.find((other) => other.finding === finding.finding);
  if (prior) {
    bar.append(element("u"));
    bar.lastChild.style.left = `${100 * prior.probability}%`;
  }
  label.append(
    radio,
    element("span", { className: "name", textContent: finding.finding.replaceAll("_", " ") }),
    element("span", { className: "numbers" },
      ...(prior ? [element("span", { className: "prior-number", textContent: `prior ${prior.decision ? "▲ " : ""}${prior.probability.toFixed(3)}` })] : []),
      element("span", { className: "number", textContent: finding.probability.toFixed(3) })),
    bar,
    element("span", { className: "decision", textContent: decisionText(finding) }),
  );
  return label;
}

function decisionText(finding) {
  if (finding.threshold === null) return "no threshold";
  if (finding.decision === null) return "no decision";
  if (finding.area !== null) return finding.decision ? `▲ outlined, ${(100 * finding.area).toFixed(1)} %` : "not outlined";
  return `${finding.decision ? "▲ above" : "below"} ${finding.threshold.toFixed(3)}`;
}

function noOverlayRow() {
  const radio = element("input", { type: "radio", name: "finding", value: "", checked: !selection.finding });
  radio.addEventListener("change", () => selectFinding(""));
  return element("label", { className: "none" }, radio, "No overlay");
}

/** Show what raises a finding's probability, in every image. Heat maps are kept as long as their image is open. */
export async function selectFinding(name) {
  selection.finding = name;
  for (const tile of allTiles()) {
    tile.overlay = null;
    tile.draw();
  }
  await attempt("heat-problem", async () => {
    if (!name) return;
    await Promise.all(allTiles().map((tile) => overlay(tile, name, $("method").value)));
    if (name === selection.finding && can("explain")) showStatus(`Heat map of ${name}.`);
  });
}

async function overlay(tile, name, method) {
  const key = `${method} ${name}`;
  if (!tile.overlays.has(key)) tile.overlays.set(key, tile.study.mask ? outline(tile.study, name) : await heatMap(tile, name, method));
  if (name !== selection.finding || method !== $("method").value) return;
  tile.overlay = tile.overlays.get(key);
  tile.overlayName = `${tile.study.mask ? "the outline" : "a heat map"} of ${name}`;
  tile.draw();
}

function outline(study, name) {
  const number = study.prediction.findings.findIndex((finding) => finding.finding === name) + 1;
  const values = study.mask.values.map((value) => (value === number ? 255 : 0));
  return colourCover({ ...study.mask, values }, Array(256).fill(CLASS_COLOURS[(number - 1) % CLASS_COLOURS.length]));
}

async function heatMap(tile, finding, method) {
  showStatus(`Computing the heat map of ${finding} …`);
  const answer = await request("/explain", { image: tile.file, finding, method }, { signal: tile.study.stops.images.signal });
  return colourCover(await decodeGrey(answer.heat_map), HEAT_COLOURS);
}
