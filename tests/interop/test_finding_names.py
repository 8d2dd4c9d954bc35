"""Names of findings: each of a vocabulary stands in one row, and translating there and back gives it again."""

import pytest

from mrm.corpora import class_names, description, mimic
from mrm.corpora.phantoms import phantom
from mrm.interop import finding_names
from mrm.interop.finding_names import names_of, translate
from mrm.system.errors import ConfigError

XRV = (  # the order in which TorchXRayVision documents its 18 pathologies
    *("Atelectasis", "Consolidation", "Infiltration", "Pneumothorax", "Edema", "Emphysema", "Fibrosis", "Effusion"),
    *("Pneumonia", "Pleural_Thickening", "Cardiomegaly", "Nodule", "Mass", "Hernia", "Lung Lesion", "Fracture"),
    *("Lung Opacity", "Enlarged Cardiomediastinum"),
)
PUBLISHED = {
    "mrm": phantom.FINDINGS,
    "nih": class_names.NIH,
    "chexpert": description.load("chexpert").labels.classes,
    "mimic": mimic.CLASSES,
    "torchxrayvision": XRV,
}


@pytest.mark.parametrize("vocabulary", finding_names.VOCABULARIES)
def test_a_vocabulary_is_complete_and_each_name_leads_back_to_itself(vocabulary):
    names = PUBLISHED[vocabulary]
    assert sorted(names_of(vocabulary)) == sorted(names)
    assert translate(names, vocabulary) == tuple(names)


def test_names_of_the_same_finding_are_found_however_they_are_written():
    assert translate(class_names.CHEXPERT, "nih") == (
        "Atelectasis",
        "Cardiomegaly",
        "Consolidation",
        "Edema",
        "Effusion",
    )
    assert translate(["oedema", "pleural effusion", "PLEURAL-THICKENING", "devices"], "torchxrayvision") == (
        *("Edema", "Effusion", "Pleural_Thickening"),
        None,
    )
    assert translate(["Effusion"], "mimic") == ("Pleural Effusion",)


def test_what_means_another_finding_is_not_taken_for_the_same():
    assert translate(["Lung Lesion", "Pleural Other", "tuberculosis", ""], "nih") == (None, None, None, None)
    assert translate(["Nodule", "Mass", "Infiltration"], "chexpert") == (None, None, None)


def test_an_unknown_vocabulary_is_named():
    for call in (lambda: translate(["Mass"], "vindr"), lambda: names_of("vindr")):
        with pytest.raises(
            ConfigError, match="unknown vocabulary 'vindr'; choose from mrm, nih, chexpert, mimic, torchx"
        ):
            call()
