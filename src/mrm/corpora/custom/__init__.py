"""Your own images and reports: tables with any column names joined to any archive, or a folder of images.

A table (CSV, Parquet, or a sheet of an Excel or LibreOffice workbook) needs a column that says which image a row belongs
to: a path or file name, an accession number, a study, series or image UID, or a patient with or without a date. What each
column is taken for is found out by its name and its values, and said; `options.columns` decides where that is wrong.
`options.classes` names the label columns.

Without a table, each image under the source is a record. With `options.classes`, folders determine the label: 1
in a folder named like the class, 0 in any other; folders named train, val and test are the splits.

In both cases `scan.txt` beside `scan.png` is its report, unless the table has one.
"""

from mrm.corpora.custom.reading import read

__all__ = ["read"]
