"""The classes of the published label lists, in their order. A list has numbers alone, so the names stand here.

Nothing heavy is imported, so that a recipe can name its classes at once.
"""

NIH = (  # derived by joining the lists with the publisher's table
    *("Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia", "Pneumothorax"),
    *("Consolidation", "Edema", "Emphysema", "Fibrosis", "Pleural_Thickening", "Hernia"),
)
CHEXPERT = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion")  # of the competition
RSNA = ("Pneumonia",)
