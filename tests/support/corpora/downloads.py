"""Downloads of the corpora that are read by a description, made up in their official layout: tables as text, tiny images.

`DOWNLOADS` has for each corpus its tables by path and the paths of its images; `RECORDS` and `BOXES` what `prepare` must make
of them, written by hand: a column `*` is the value of every class that is not a column.
"""

from pathlib import Path
from typing import NamedTuple

from tests.support.dicom_files import write_dicom
from tests.support.image_files import write_image


class Download(NamedTuple):
    """The tables of a download, path to text, and its images."""

    tables: dict[str, str]
    images: list[str]


def write_download(name: str, root: Path) -> Path:
    """Write the made-up download of a corpus. Images are 20 wide and 24 high."""
    download = DOWNLOADS[name]
    for file, text in download.tables.items():
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_text(text.lstrip("\n"), encoding="utf-8")
    for number, file in enumerate(download.images):
        if Path(file).suffix in (".png", ".jpg"):
            write_image(root / file, number)
        else:
            write_dicom(root / file, number)
    return root


CHEXPERT = (
    "No Finding,Enlarged Cardiomediastinum,Cardiomegaly,Lung Opacity,Lung Lesion,Edema,Consolidation,Pneumonia,"
    "Atelectasis,Pneumothorax,Pleural Effusion,Pleural Other,Fracture,Support Devices"
)
VINDR = (
    "Aortic enlargement,Atelectasis,Calcification,Cardiomegaly,Clavicle fracture,Consolidation,Edema,Emphysema,Enlarged PA,"
    "ILD,Infiltration,Lung Opacity,Lung cavity,Lung cyst,Mediastinal shift,Nodule/Mass,Pleural effusion,Pleural thickening,"
    "Pneumothorax,Pulmonary fibrosis,Rib fracture,Other lesion,COPD,Lung tumor,Pneumonia,Tuberculosis"
)
RX = "GRDNA/GRDNP{0}/studies/S{0}/series/E{0}/instances/I{0}{1}.png"

DOWNLOADS = {
    "chexpert-plus": Download(
        {
            "df_chexpert_plus_240401.csv": """
path_to_image,path_to_dcm,frontal_lateral,ap_pa,deid_patient_id,patient_report_date_order,report,section_narrative,section_clinical_history,section_history,section_comparison,section_technique,section_procedure_comments,section_findings,section_impression,section_end_of_impression,section_summary,section_accession_number,age,sex,race,ethnicity,interpreter_needed,insurance_type,recent_bmi,deceased,split
train/patient00001/study1/view1_frontal.jpg,train/patient00001/study1/view1_frontal.dcm,Frontal,AP,patient00001,1,whole,Chest,,Cough.,,,,Clear lungs.,Normal chest.,,,1,68.0,Female,White,Not,No,Private,25.1,No,train
train/patient00002/study2/view2_lateral.jpg,train/patient00002/study2/view2_lateral.dcm,Lateral,,patient00002,1,"IMPRESSION: Effusion.",,,,,,,,,,,2,70.5,Male,White,Not,No,Private,25.1,No,train
valid/patient64541/study1/view1_frontal.jpg,valid/patient64541/study1/view1_frontal.dcm,Frontal,PA,patient64541,1,,,,,,,,,Edema.,,,3,41.0,Male,White,Not,No,Private,25.1,No,valid
""",
            "chexbert_labels/report_fixed.json": """
{"path_to_image": "train/patient00001/study1/view1_frontal.jpg", "No Finding": 1.0, "Edema": null, "Enlarged Cardiomediastinum": null, "Cardiomegaly": 0.0, "Lung Opacity": null, "Lung Lesion": null, "Consolidation": null, "Pneumonia": null, "Atelectasis": null, "Pneumothorax": null, "Pleural Effusion": null, "Pleural Other": null, "Fracture": null, "Support Devices": null}
{"path_to_image": "train/patient00002/study2/view2_lateral.jpg", "No Finding": null, "Edema": -1.0, "Cardiomegaly": null, "Pleural Effusion": 1.0}
""",
        },
        [
            "PNG/train/patient00001/study1/view1_frontal.png",
            "DICOM/train/patient00001/study1/view1_frontal.dcm",
            "PNG/train/patient00002/study2/view2_lateral.png",
            "PNG/valid/patient64541/study1/view1_frontal.png",
        ],
    ),
    "padchest": Download(
        {
            "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv": """
,ImageID,ImageDir,StudyDate_DICOM,StudyID,PatientID,PatientBirth,PatientSex_DICOM,ViewPosition_DICOM,Projection,MethodProjection,Pediatric,Modality_DICOM,ReportID,Report,MethodLabel,Labels,Localizations,LabelsLocalizationsBySentence,labelCUIS,LocalizationsCUIS
0,20536686640136348236148679891455886468_k6ga29.png,0,20140915,20536686640136348236148679891455886468,839860488694292331637988235681460987,1930.0,F,POSTEROANTERIOR,PA,Manual review of DICOM fields,No,CR,4765777,sin hallazgos patologicos de la silueta con los del se,Physician,['normal'],[],"[['normal']]",[],[]
1,14_rx.png,0,20120102,s2,p2,1950.0,M,,,Automatic,No,DX,11,pinzamiento de seno en el lado y las del se,RNN_model,"['pleural effusion', ' costophrenic angle blunting']","['loc right']",[],[],[]
2,15_rx.png,1,20120102,s2,p2,1950.0,M,LATERAL,L,Manual,No,DX,11,pinzamiento de seno en el lado y las del se,RNN_model,"['pleural effusion', 'Cardiomegaly ']",[],[],[],[]
3,16_rx.png,54,20130506,s3,p3,,F,ANTEROPOSTERIOR,AP_horizontal,Manual,No,CR,12,,Physician,,[],[],[],[]
"""
        },
        ["0/20536686640136348236148679891455886468_k6ga29.png", "0/14_rx.png", "1/15_rx.png", "54/16_rx.png"],
    ),
    "rexgradient": Download(
        {
            "metadata/train_metadata_view_position.json": '{"GRDNP1_S1": {"id": "GRDNP1_S1", "PatientID": "GRDNP1", "AccessionNumber": "A1", "StudyInstanceUid": "S1", "PatientSex": "F", "PatientAge": "057Y", "StudyDate": "20200102", "Indication": "Cough.", "Comparison": "None.", "Findings": "Clear.", "Impression": "Normal.", "ImagePath": ["../deid_png/'
            + RX.format(1, "a")
            + '", "../deid_png/'
            + RX.format(1, "b")
            + '"], "ImageViewPosition": ["PA", "LATERAL"]}}',
            "metadata/valid_metadata_view_position.json": '{"GRDNP2_S2": {"id": "GRDNP2_S2", "PatientID": "GRDNP2", "AccessionNumber": "A2", "StudyInstanceUid": "S2", "PatientSex": "M", "PatientAge": null, "StudyDate": null, "Indication": null, "Comparison": null, "Findings": null, "Impression": "Effusion.", "ImagePath": ["../deid_png/'
            + RX.format(2, "a")
            + '"], "ImageViewPosition": [null]}}',
            "metadata/test_metadata_view_position.json": '{"GRDNP3_S3": {"id": "GRDNP3_S3", "PatientID": "GRDNP3", "AccessionNumber": "A3", "StudyInstanceUid": "S3", "Indication": null, "Comparison": null, "Findings": "Mass.", "Impression": null, "ImagePath": ["../deid_png/'
            + RX.format(3, "a")
            + '"], "ImageViewPosition": ["AP"]}}',
        },
        [f"deid_png/{RX.format(*one)}" for one in ((1, "a"), (1, "b"), (2, "a"), (3, "a"))],
    ),
    "brax": Download(
        {
            "master_spreadsheet_update.csv": f"""
DicomPath,PngPath,PatientID,PatientSex,PatientAge,AccessionNumber,StudyDate,{CHEXPERT},ViewPosition,Rows,Columns,Manufacturer
Anonymized_DICOMs/id_1/Study_1.1/Series_1.2/image-1.3.dcm,images/id_1/Study_1.1/Series_1.2/image-1.3.png,id_1,F,45,acc1,20150304,1,,,,,,,,,,0,,,,PA,2000,1800,GE
Anonymized_DICOMs/id_2/Study_2.1/Series_2.2/image-2.3.dcm,images/id_2/Study_2.1/Series_2.2/image-2.3.png,id_2,M,85 or more,acc2,20150305,,,1,-1,,,,,,,1,,,1.0,AP,2000,1800,GE
Anonymized_DICOMs/id_2/Study_2.1/Series_2.2/image-2.4.dcm,,id_2,M,85 or more,acc2,20150305,,,1,-1,,,,,,,1,,,1.0,L,2000,1800,GE
"""
        },
        [
            "images/id_1/Study_1.1/Series_1.2/image-1.3.png",
            "images/id_2/Study_2.1/Series_2.2/image-2.3.png",
            "Anonymized_DICOMs/id_2/Study_2.1/Series_2.2/image-2.4.dcm",
        ],
    ),
    "rocov2": Download(
        {
            "train_captions.csv": "ID,Caption\nROCOv2_2023_train_000001,Chest radiograph with effusion.\nROCOv2_2023_train_000002,CT of the head.\n",
            "valid_captions.csv": 'ID,Caption\nROCOv2_2023_valid_000001,"Frontal view, tube in place."\n',
            "test_captions.csv": "ID,Caption\nROCOv2_2023_test_000001,Chest X-ray showing a mass.\nROCOv2_2023_test_000002,Knee.\n",
            "train_concepts.csv": "ID,CUIs\nROCOv2_2023_train_000001,C1306645;C0817096;C0032227\nROCOv2_2023_train_000002,C0040405\n",
            "valid_concepts.csv": "ID,CUIs\nROCOv2_2023_valid_000001,C0817096;C1306645\n",
            "test_concepts.csv": "ID,CUIs\nROCOv2_2023_test_000001,C1306645;C0817096\nROCOv2_2023_test_000002,C1306645;C0022742\n",
        },
        [
            "train/ROCOv2_2023_train_000001.jpg",
            "valid/ROCOv2_2023_valid_000001.jpg",
            "test/ROCOv2_2023_test_000001.jpg",
        ],
    ),
    "chexpert-test": Download(
        {
            "groundtruth.csv": f"""
Study,{CHEXPERT}
CheXpert-v1.0/test/patient64741/study1,0,1,1,0,0,0,0,0,0,0,1,0,0,1
CheXpert-v1.0/test/patient64742/study1,1,0,0,0,0,0,0,0,0,0,0,0,0,0
"""
        },
        [
            "test/patient64741/study1/view1_frontal.jpg",
            "test/patient64741/study1/view2_lateral.jpg",
            "test/patient64742/study1/view1_frontal.jpg",
        ],
    ),
    "vindr": Download(
        {
            "annotations/image_labels_train.csv": f"""
image_id,rad_id,{VINDR},Other diseases,No finding
aa01,R1,1,0,0,0{",0" * 22},0,0
aa01,R2,1,0,0,1{",0" * 22},0,0
aa01,R3,0,1,0,1{",0" * 22},0,0
aa02,R1{",0" * 26},0,1
aa02,R4{",0" * 26},0,1
aa02,R5{",0" * 26},1,0
""",
            "annotations/image_labels_test.csv": f"image_id,{VINDR},Other disease,No finding\nbb01,0,0,1{',0' * 23},1,0\n",
            "annotations/annotations_train.csv": """
image_id,rad_id,class_name,x_min,y_min,x_max,y_max
aa01,R1,Aortic enlargement,2.5,3,12.5,9
aa01,R3,Cardiomegaly,1,10,19.4,24.5
aa02,R1,No finding,,,,
""",
            "annotations/annotations_test.csv": "image_id,class_name,x_min,y_min,x_max,y_max\nbb01,Other disease,0,0,20,24\n",
        },
        ["train/aa01.dicom", "train/aa02.dicom", "test/bb01.dicom"],
    ),
    "vinbigdata": Download(
        {
            "train.csv": """
image_id,class_name,class_id,rad_id,x_min,y_min,x_max,y_max
cc01,No finding,14,R11,,,,
cc01,No finding,14,R7,,,,
cc01,Cardiomegaly,3,R9,1,2,11,12
cc02,Cardiomegaly,3,R8,1,2,11,12
cc02,Cardiomegaly,3,R9,2,2,12,13
cc02,ILD,5,R10,0,0,5,5
"""
        },
        ["train/cc01.dicom", "train/cc02.dicom"],
    ),
    "covidx-cxr4": Download(
        {
            "train.txt": "1 a.png positive cohen\n2 b.jpg negative rsna\n",
            "val.txt": "3 c.png negative bimcv\n",
            "test.txt": "4 d.png positive ricord\n",
        },
        ["train/a.png", "train/b.jpg", "val/c.png", "test/d.png"],
    ),
    "covidx-cxr3": Download(
        {"train.txt": "1 a.png positive cohen\n2 b.jpg negative rsna\n", "test.txt": "4 d.png negative ricord\n"},
        ["train/a.png", "train/b.jpg", "test/d.png"],
    ),
    "tbx11k": Download(
        {
            "annotations/json/TBX11K_train.json": '{"categories": [{"id": 1, "name": "ActiveTuberculosis"}, {"id": 2, "name": "ObsoletePulmonaryTuberculosis"}, {"id": 3, "name": "PulmonaryTuberculosis"}], "images": [{"id": 1, "file_name": "tb/tb0005.png", "width": 512, "height": 512}, {"id": 601, "file_name": "health/h0001.png", "width": 512, "height": 512}], "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0, "area": 20, "bbox": [1.5, 2, 10, 8.25]}, {"id": 2, "image_id": 1, "category_id": 2, "iscrowd": 0, "area": 20, "bbox": [3, 4, 5, 6]}]}',
            "annotations/json/TBX11K_val.json": '{"categories": [{"id": 1, "name": "ActiveTuberculosis"}], "images": [{"id": 7, "file_name": "sick/s0003.png"}], "annotations": []}',
        },
        ["imgs/tb/tb0005.png", "imgs/health/h0001.png", "imgs/sick/s0003.png"],
    ),
    "shenzhen": Download(
        {
            "ClinicalReadings/CHNCXR_0001_0.txt": "male 45yrs\nnormal",
            "ClinicalReadings/CHNCXR_0327_1.txt": "Female , 18 yrs\nright PTB",
            "ClinicalReadings/CHNCXR_0328_1.txt": "male 3days\nbilateral PTB",
        },
        [
            *("CXR_png/CHNCXR_0001_0.png", "CXR_png/CHNCXR_0327_1.png", "CXR_png/CHNCXR_0328_1.png"),
            "mask/CHNCXR_0001_0_mask.png",
        ],
    ),
    "montgomery": Download(
        {
            "ClinicalReadings/MCUCXR_0001_0.txt": "Patient's Sex: F\nPatient's Age: 027Y\nnormal\n",
            "ClinicalReadings/MCUCXR_0104_1.txt": "Patient's Sex: M\nPatient's Age: 059Y\ncavitary nodule\n",
        },
        [
            *("CXR_png/MCUCXR_0001_0.png", "CXR_png/MCUCXR_0104_1.png"),
            *("ManualMask/leftMask/MCUCXR_0001_0.png", "ManualMask/rightMask/MCUCXR_0001_0.png"),
        ],
    ),
    "chestx-det": Download(
        {
            "ChestX_Det_train.json": '[{"file_name": "36199.png", "syms": ["Effusion", "Effusion", "Diffuse Nodule"], "boxes": [[1, 2, 6, 9], [8, 2, 18, 20], [0, 0, 20, 24]], "polygons": [[[1, 2], [6, 2], [6, 9]], [[8, 2], [18, 20]], [[0, 0]]]}, {"file_name": "36200.png", "syms": [], "boxes": [], "polygons": []}]',
            "ChestX_Det_test.json": '[{"file_name": "36199.png", "syms": ["Mass"], "boxes": [[3, 3, 7, 7]], "polygons": [[[3, 3], [7, 7]]]}]',
        },
        ["train_data/36199.png", "train_data/36200.png", "test_data/36199.png"],
    ),
    "object-cxr": Download(
        {
            "train.csv": "image_name,annotation\n00001.jpg,0 1 2 5 9;1 3 4 10 12;2 1 1 9 1 9 8 2 8\n00002.jpg,\n",
            "dev.csv": "image_name,annotation\n08001.jpg,2 4 4 8 4 6 10\n",
        },
        ["train/00001.jpg", "train/00002.jpg", "dev/08001.jpg"],
    ),
    "ranzcr": Download(
        {
            "train.csv": """
StudyInstanceUID,ETT - Abnormal,ETT - Borderline,ETT - Normal,NGT - Abnormal,NGT - Borderline,NGT - Incompletely Imaged,NGT - Normal,CVC - Abnormal,CVC - Borderline,CVC - Normal,Swan Ganz Catheter Present,PatientID
1.2.826.0.1.3680043.8.498.26697628953273228189375557799582420561,0,0,0,0,0,0,1,0,0,0,0,ec89415d1
1.2.826.0.1.3680043.8.498.46302891597398758759818628675365157729,0,0,1,0,0,1,0,0,0,1,0,bf4c6da3c
"""
        },
        [
            "train/1.2.826.0.1.3680043.8.498.26697628953273228189375557799582420561.jpg",
            "train/1.2.826.0.1.3680043.8.498.46302891597398758759818628675365157729.jpg",
        ],
    ),
    "jsrt": Download(
        {
            "Clinical_Information/CLNDAT_EN.txt": "JPCLN001.IMG\t5\t15\t53\tMale\t1634\t692\tmalignant\tl.upper lobe(S2)\tlung cancer\nJPCLN126.IMG\t2\t7\t64\tFemale\t700\t900\tbenign\tr.upper lobe\tgranuloma\n",
            "Clinical_Information/CNNDAT_EN.TXT": "JPCNN001.IMG\t20\tFemale\tnon-nodule\n",
        },
        ["All247images/JPCLN001.png", "All247images/JPCLN126.png", "All247images/JPCNN001.png"],
    ),
    "candid-ptx": Download(
        {
            "Pneumothorax_reports.csv": """
SOPInstanceUID,EncodedPixels,Report
1.2.3.11,-1,"CHEST. No pneumothorax."
1.2.3.12,100 4 20 6,"Right pneumothorax, tube in place."
1.2.3.13,-1,Old rib fractures.
""",
            "chest_tube.csv": "anon_SOPUID,annotation,mask_rle\n1.2.3.12,tube,5 6\n1.2.3.12,tube,9 2\n",
            "acute_rib_fracture.csv": "anon_SOPUID,annotation,mask_rle\n1.2.3.13,rib,5 6\n",
        },
        ["dataset/1.2.3.11", "dataset/1.2.3.12", "dataset/1.2.3.13"],
    ),
    "ms-cxr": Download(
        {
            "MS_CXR_Local_Alignment_v1.1.0.csv": """
dicom_id,category_name,label_text,path,x,y,w,h,image_width,image_height,split
d1,Pneumothorax,left apical pneumothorax,files/p10/p10000032/s50414267/d1.jpg,2,3,6,7,20,24,val
d1,Pneumothorax,left apical pneumothorax,files/p10/p10000032/s50414267/d1.jpg,9,3,6,7,20,24,val
d2,Lung Opacity,"opacity, right base",files/p11/p11000033/s50414268/d2.jpg,1,1,5,5,20,24,test
"""
        },
        ["files/p10/p10000032/s50414267/d1.jpg", "files/p11/p11000033/s50414268/d2.jpg"],
    ),
}

RECORDS = {
    "chexpert-plus": """
image_path | patient_id | study_id | view | report_content | No Finding | Cardiomegaly | Edema | Pleural Effusion | * | sex | age | split
PNG/train/patient00001/study1/view1_frontal.png | patient00001 | patient00001/study1 | AP | NARRATIVE: Chest⏎HISTORY: Cough.⏎FINDINGS: Clear lungs.⏎IMPRESSION: Normal chest. | 1 | 0 | | | | Female | 68 | train
PNG/train/patient00002/study2/view2_lateral.png | patient00002 | patient00002/study2 | Lateral | IMPRESSION: Effusion. | | | -1 | 1 | | Male | 70.5 | train
PNG/valid/patient64541/study1/view1_frontal.png | patient64541 | patient64541/study1 | PA | IMPRESSION: Edema. | | | | | | Male | 41 | val
""",
    "padchest": """
image_path | patient_id | study_id | view | report_content | Cardiomegaly | costophrenic angle blunting | pleural effusion | sex | date | method
0/20536686640136348236148679891455886468_k6ga29.png | 839860488694292331637988235681460987 | 20536686640136348236148679891455886468 | PA | sin hallazgos patologicos de la silueta con los del se | 0 | 0 | 0 | F | 20140915 | Physician
0/14_rx.png | p2 | s2 | | pinzamiento de seno en el lado y las del se | 0 | 1 | 1 | M | 20120102 | RNN_model
1/15_rx.png | p2 | s2 | L | pinzamiento de seno en el lado y las del se | 1 | 0 | 1 | M | 20120102 | RNN_model
54/16_rx.png | p3 | s3 | AP_horizontal | | | | | F | 20130506 | Physician
""",
    "rexgradient": f"""
image_path | patient_id | study_id | view | report_content | sex | age | split | accession
deid_png/{RX.format(1, "a")} | GRDNP1 | S1 | PA | INDICATION: Cough.⏎COMPARISON: None.⏎FINDINGS: Clear.⏎IMPRESSION: Normal. | F | 57 | train | A1
deid_png/{RX.format(1, "b")} | GRDNP1 | S1 | LATERAL | INDICATION: Cough.⏎COMPARISON: None.⏎FINDINGS: Clear.⏎IMPRESSION: Normal. | F | 57 | train | A1
deid_png/{RX.format(2, "a")} | GRDNP2 | S2 | | IMPRESSION: Effusion. | M | | val | A2
deid_png/{RX.format(3, "a")} | GRDNP3 | S3 | AP | FINDINGS: Mass. | | | test | A3
""",
    "brax": """
image_path | patient_id | study_id | view | No Finding | Cardiomegaly | Lung Opacity | Pleural Effusion | Support Devices | * | age | date
images/id_1/Study_1.1/Series_1.2/image-1.3.png | id_1 | acc1 | PA | 1 | | | 0 | | | 45 | 20150304
images/id_2/Study_2.1/Series_2.2/image-2.3.png | id_2 | acc2 | AP | | 1 | -1 | 1 | 1 | | 85 or more | 20150305
Anonymized_DICOMs/id_2/Study_2.1/Series_2.2/image-2.4.dcm | id_2 | acc2 | L | | 1 | -1 | 1 | 1 | | 85 or more | 20150305
""",
    "rocov2": """
image_path | patient_id | report_content | concepts | split
train/ROCOv2_2023_train_000001.jpg | | Chest radiograph with effusion. | C1306645;C0817096;C0032227 | train
valid/ROCOv2_2023_valid_000001.jpg | | Frontal view, tube in place. | C0817096;C1306645 | val
test/ROCOv2_2023_test_000001.jpg | | Chest X-ray showing a mass. | C1306645;C0817096 | test
""",
    "chexpert-test": """
image_path | patient_id | study_id | Enlarged Cardiomediastinum | Cardiomegaly | Pleural Effusion | Support Devices | No Finding | * | split
test/patient64741/study1/view1_frontal.jpg | patient64741 | patient64741/study1 | 1 | 1 | 1 | 1 | 0 | 0 | test
test/patient64741/study1/view2_lateral.jpg | patient64741 | patient64741/study1 | 1 | 1 | 1 | 1 | 0 | 0 | test
test/patient64742/study1/view1_frontal.jpg | patient64742 | patient64742/study1 | 0 | 0 | 0 | 0 | 1 | 0 | test
""",
    "vindr": """
image_path | patient_id | Aortic enlargement | Atelectasis | Calcification | Cardiomegaly | Clavicle fracture | Other diseases | No finding | * | split
train/aa01.dicom | | 1 | 0 | 0 | 1 | 0 | 0 | 0 | 0 | train
train/aa02.dicom | | 0 | 0 | 0 | 0 | 0 | 0 | 1 | 0 | train
test/bb01.dicom | | 0 | 0 | 1 | 0 | 0 | 1 | 0 | 0 | test
""",
    "vinbigdata": """
image_path | patient_id | Cardiomegaly | ILD | *
train/cc01.dicom | | 0 | 0 | 0
train/cc02.dicom | | 1 | 0 | 0
""",
    "covidx-cxr4": """
image_path | patient_id | COVID-19 | source | split
train/a.png | 1 | 1 | cohen | train
train/b.jpg | 2 | 0 | rsna | train
val/c.png | 3 | 0 | bimcv | val
test/d.png | 4 | 1 | ricord | test
""",
    "covidx-cxr3": """
image_path | patient_id | COVID-19 | source | split
train/a.png | 1 | 1 | cohen | train
train/b.jpg | 2 | 0 | rsna | train
test/d.png | 4 | 0 | ricord | test
""",
    "tbx11k": """
image_path | patient_id | Tuberculosis | Sick but not TB | ActiveTuberculosis | ObsoletePulmonaryTuberculosis | PulmonaryTuberculosis | split
imgs/tb/tb0005.png | | 1 | 0 | 1 | 1 | 0 | train
imgs/health/h0001.png | | 0 | 0 | 0 | 0 | 0 | train
imgs/sick/s0003.png | | 0 | 1 | 0 | 0 | 0 | val
""",
    "shenzhen": """
image_path | patient_id | report_content | Tuberculosis | sex | age | mask_path
CXR_png/CHNCXR_0001_0.png | CHNCXR_0001 | male 45yrs⏎normal | 0 | male | 45 | mask/CHNCXR_0001_0_mask.png
CXR_png/CHNCXR_0327_1.png | CHNCXR_0327 | Female , 18 yrs⏎right PTB | 1 | Female | 18 |
CXR_png/CHNCXR_0328_1.png | CHNCXR_0328 | male 3days⏎bilateral PTB | 1 | male | 3D |
""",
    "montgomery": """
image_path | patient_id | report_content | Tuberculosis | sex | age | left_mask_path | right_mask_path
CXR_png/MCUCXR_0001_0.png | MCUCXR_0001 | Patient's Sex: F⏎Patient's Age: 027Y⏎normal | 0 | F | 27 | ManualMask/leftMask/MCUCXR_0001_0.png | ManualMask/rightMask/MCUCXR_0001_0.png
CXR_png/MCUCXR_0104_1.png | MCUCXR_0104 | Patient's Sex: M⏎Patient's Age: 059Y⏎cavitary nodule | 1 | M | 59 | |
""",
    "chestx-det": """
image_path | patient_id | Effusion | Diffuse Nodule | Mass | * | split
train_data/36199.png | | 1 | 1 | 0 | 0 | train
train_data/36200.png | | 0 | 0 | 0 | 0 | train
test_data/36199.png | | 0 | 0 | 1 | 0 | test
""",
    "object-cxr": """
image_path | patient_id | Foreign object | split
train/00001.jpg | | 1 | train
train/00002.jpg | | 0 | train
dev/08001.jpg | | 1 | val
""",
    "ranzcr": """
image_path | patient_id | NGT - Normal | ETT - Normal | NGT - Incompletely Imaged | CVC - Normal | *
train/1.2.826.0.1.3680043.8.498.26697628953273228189375557799582420561.jpg | ec89415d1 | 1 | 0 | 0 | 0 | 0
train/1.2.826.0.1.3680043.8.498.46302891597398758759818628675365157729.jpg | bf4c6da3c | 0 | 1 | 1 | 1 | 0
""",
    "jsrt": """
image_path | patient_id | Nodule | Malignant | sex | age | nodule_mm | nodule_x | nodule_y | diagnosis | subtlety
All247images/JPCLN001.png | JPCLN001 | 1 | 1 | Male | 53 | 15 | 1634 | 692 | lung cancer | 5
All247images/JPCLN126.png | JPCLN126 | 1 | 0 | Female | 64 | 7 | 700 | 900 | granuloma | 2
All247images/JPCNN001.png | JPCNN001 | 0 | | Female | 20 | | | | |
""",
    "candid-ptx": """
image_path | report_content | Pneumothorax | Chest tube | Acute rib fracture | run_lengths
dataset/1.2.3.11 | CHEST. No pneumothorax. | 0 | 0 | 0 | -1
dataset/1.2.3.12 | Right pneumothorax, tube in place. | 1 | 1 | 0 | 100 4 20 6
dataset/1.2.3.13 | Old rib fractures. | 0 | 0 | 1 | -1
""",
    "ms-cxr": """
image_path | patient_id | study_id | Pneumothorax | Lung Opacity | * | split
files/p10/p10000032/s50414267/d1.jpg | 10000032 | 50414267 | 1 | 0 | 0 | val
files/p11/p11000033/s50414268/d2.jpg | 11000033 | 50414268 | 0 | 1 | 0 | test
""",
}

BOXES = {  # the box of aa01 that is half a pixel too low is clipped to the height of 24
    "vindr": """
image_path | class | x | y | width | height | reader | text
train/aa01.dicom | Aortic enlargement | 2.5 | 3 | 10 | 6 | R1 |
train/aa01.dicom | Cardiomegaly | 1 | 10 | 18.4 | 14 | R3 |
test/bb01.dicom | Other diseases | 0 | 0 | 20 | 24 | |
""",
    "vinbigdata": """
image_path | class | x | y | width | height | reader | text
train/cc01.dicom | Cardiomegaly | 1 | 2 | 10 | 10 | R9 |
train/cc02.dicom | Cardiomegaly | 1 | 2 | 10 | 10 | R8 |
train/cc02.dicom | Cardiomegaly | 2 | 2 | 10 | 11 | R9 |
train/cc02.dicom | ILD | 0 | 0 | 5 | 5 | R10 |
""",
    "tbx11k": """
image_path | class | x | y | width | height | reader | text
imgs/tb/tb0005.png | ActiveTuberculosis | 1.5 | 2 | 10 | 8.25 | |
imgs/tb/tb0005.png | ObsoletePulmonaryTuberculosis | 3 | 4 | 5 | 6 | |
""",
    "chestx-det": """
image_path | class | x | y | width | height | reader | text
train_data/36199.png | Effusion | 1 | 2 | 5 | 7 | |
train_data/36199.png | Effusion | 8 | 2 | 10 | 18 | |
train_data/36199.png | Diffuse Nodule | 0 | 0 | 20 | 24 | |
test_data/36199.png | Mass | 3 | 3 | 4 | 4 | |
""",
    "object-cxr": """
image_path | class | x | y | width | height | reader | text
train/00001.jpg | Foreign object | 1 | 2 | 4 | 7 | |
train/00001.jpg | Foreign object | 3 | 4 | 7 | 8 | |
train/00001.jpg | Foreign object | 1 | 1 | 8 | 7 | |
dev/08001.jpg | Foreign object | 4 | 4 | 4 | 6 | |
""",
    "ms-cxr": """
image_path | class | x | y | width | height | reader | text
files/p10/p10000032/s50414267/d1.jpg | Pneumothorax | 2 | 3 | 6 | 7 | | left apical pneumothorax
files/p10/p10000032/s50414267/d1.jpg | Pneumothorax | 9 | 3 | 6 | 7 | | left apical pneumothorax
files/p11/p11000033/s50414268/d2.jpg | Lung Opacity | 1 | 1 | 5 | 5 | | opacity, right base
""",
}

# what else `prepare` lists in excluded.csv: reason -> images
EXCLUDED = {
    "chexpert-plus": {"same file name in two folders, or in two formats": 1},
    "rocov2": {"row of another kind": 2},
}


def cells(table: str) -> list[dict[str, str]]:
    """The rows of a table that is written by hand, ⏎ for a line break."""
    header, *rows = ([cell.strip() for cell in line.split("|")] for line in table.strip().splitlines())
    return [dict(zip(header, (cell.replace("⏎", "\n") for cell in row), strict=True)) for row in rows]
