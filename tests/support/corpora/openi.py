"""Open-i's download, made up."""

from pathlib import Path

import cv2
import numpy as np

XML = """<?xml version="1.0" encoding="utf-8"?>
<eCitation>
   <meta type="rr"/>
   <uId id="CXR{uid}"/>
   <pmcId id="{uid}"/>
   <specialty>pulmonary diseases</specialty>
   <MedlineCitation Owner="Indiana University" Status="supplied by publisher">
      <Article PubModel="Electronic">
         <ArticleTitle>Indiana University Chest X-ray Collection</ArticleTitle>
         <Abstract>
            <AbstractText Label="COMPARISON">None.</AbstractText>
            <AbstractText Label="INDICATION">XXXX-year-old with a cough &amp; fever</AbstractText>
            <AbstractText Label="FINDINGS">{findings}</AbstractText>
            <AbstractText Label="IMPRESSION">Normal chest x-XXXX.</AbstractText>
         </Abstract>
      </Article>
   </MedlineCitation>
   <MeSH>
      <major>Cardiomegaly/borderline</major>
      <major>Pulmonary Artery/enlarged </major>
      <automatic>artery</automatic>
   </MeSH>
{images}</eCitation>
"""
IMAGE = """   <parentImage id="{id}">
      <figureId>F1</figureId>
      <caption>Xray Chest PA and Lateral</caption>
      <panel type="single"><url>/hadoop/storage/radiology/extract/{id}.jpg</url></panel>
   </parentImage>
"""


def write_report(root: Path, uid: int, images: list[str], findings: str = "The lungs are clear.") -> Path:
    file = root / "NLMCXR_reports" / "ecgen-radiology" / f"{uid}.xml"
    file.parent.mkdir(parents=True, exist_ok=True)
    parts = "".join(IMAGE.format(id=p) for p in images)
    file.write_text(XML.format(uid=uid, findings=findings, images=parts))
    return file


def write_image(root: Path, name: str) -> None:
    file = root / "NLMCXR_png" / f"{name}.png"
    file.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(file), np.full((24, 20), len(name), np.uint8))


def write_tree(root: Path) -> Path:
    for uid in (1, 2, 10):
        names = [f"CXR{uid}_1_IM-0001-3001", f"CXR{uid}_1_IM-0001-4001"]
        write_report(root, uid, names, findings="" if uid == 2 else "The lungs are XXXX clear.")
        for name in names:
            write_image(root, name)
    return root
