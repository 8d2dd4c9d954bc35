// The page of the service. It uses no library, sends requests to its own service only, and keeps only what is on screen.

import { $, element, showMessage, showStatus } from "./elements.js";
import { METHODS, selectFinding, selection, showAnswer } from "./findings.js";
import { saveCsv, saveDicom, saveJson, savePng } from "./downloads.js";
import { clearReport, fillIn, restore } from "./report.js";
import { attempt, can, onceAtATime, request, service } from "./requests.js";
import { studies } from "./study.js";
import { connectViewer, resetView, showTiles } from "./viewer.js";

/** Open images as the current study, or as the prior one. A new current study is another patient: no prior stays. */
async function openImages(study, files) {
  if (!files.length || !service.about) return;
  clear(study);
  showStatus(files.length > 1 ? `Reading ${files.length} images …` : "Reading the image …");
  await attempt("problem", async () => {
    await study.open(files);
    document.body.classList.add("loaded");
    $("work").hidden = false;
    showTiles();
    await answer(study);
  });
  if (!study.tiles.length) showStatus("");
}

function clear(study) {
  for (const place of ["problem", "answer-problem", "heat-problem", "fill-problem", "restore-problem", "save-problem"]) showMessage(place, "");
  study.clear();
  if (study === studies.current) {
    studies.prior.clear();
    selection.finding = "";
    $("work").hidden = true;
    document.body.classList.remove("loaded");
    clearReport();
    resetView();
  }
  showTiles();
  showAnswer();
}

/** Ask for the answer about a study, and show it with that of the other. */
async function answer(study) {
  study.prediction = null;
  showAnswer();
  if (can("predict") && study.used.length) showStatus("Computing the findings …");
  await attempt("answer-problem", () => study.answer($("pool").value));
  showAnswer();
  if (!studies.current.prediction) showStatus("");
  if (selection.finding) await selectFinding(selection.finding);
}

async function start() {
  await attempt("token-problem", async () => {
    service.about = await request("/model");
    $("token").hidden = true;
  });
  $("drop").hidden = !service.about;
  if (!service.about) {
    if ($("token").hidden) showMessage("problem", $("token-problem").textContent);
    return;
  }
  const { about } = service;
  showMessage("problem", "");
  $("file").multiple = $("prior-file").multiple = about.kind !== "segmenter";
  $("model").textContent = [about.model, about.pretrained !== about.model && about.pretrained].filter(Boolean).join(" + ");
  $("answer").hidden = !can("predict");
  $("fill").hidden = !can("fill-in");
  $("restore").hidden = !can("reconstruct");
  $("method-line").hidden = !about.methods.length;
  $("opacity-label").hidden = !can("predict");
  $("method").replaceChildren(...about.methods.map((value) => element("option", { value, textContent: METHODS[value]?.name ?? value })));
  showMethod();
}

function showMethod() {
  $("method-about").textContent = METHODS[$("method").value]?.about ?? "";
}

function connectFiles() {
  for (const [id, study] of [["file", studies.current], ["prior-file", studies.prior]]) {
    $(id).addEventListener("change", () => {
      const files = [...$(id).files];
      $(id).value = "";  // so that the same file can be chosen again
      openImages(study, files);
    });
  }
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    document.body.classList.add("over");
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) document.body.classList.remove("over");
  });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    document.body.classList.remove("over");
    const isPrior = studies.current.tiles.length && event.target.closest("#prior-drop, #prior-study");
    openImages(isPrior ? studies.prior : studies.current, [...event.dataTransfer.files]);
  });
}

function connectAnswer() {
  $("stage").addEventListener("change", (event) => {
    const study = Object.values(studies).find(({ tiles }) => tiles.some(({ used }) => used === event.target));
    if (study) answer(study);
  });
  $("pool").addEventListener("change", async () => {
    for (const study of Object.values(studies)) if (study.used.length > 1) await answer(study);
  });
  $("remove-prior").addEventListener("click", () => {
    studies.prior.clear();
    showTiles();
    showAnswer();
  });
  $("method").addEventListener("change", () => { showMethod(); selectFinding(selection.finding); });
  $("fill-form").addEventListener("submit", onceAtATime($("fill-form").querySelector("button"), "fill-problem", fillIn));
  $("restore-go").addEventListener("click", onceAtATime($("restore-go"), "restore-problem", restore));
  $("save-json").addEventListener("click", saveJson);
  $("save-csv").addEventListener("click", saveCsv);
  $("save-dicom").addEventListener("click", onceAtATime($("save-dicom"), "save-problem", saveDicom));
  $("save-png").addEventListener("click", savePng);
}

$("token").addEventListener("submit", (event) => {
  event.preventDefault();
  service.token = $("token-text").value;
  start();
});
connectViewer();
connectFiles();
connectAnswer();
start();
