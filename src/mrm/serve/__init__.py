"""A model as a service on this machine, with a page for people: `mrm serve`.

`server` starts and stops it, `app` holds the routes and `forms` what they take, `answers` what they return, `models` how
the models compute that, `dicom_answers` writes it as DICOM, and `worker` is the thread they run in. `uploads` is how an
upload is decoded and `decoding` the processes where that happens. `connections` and then `middleware` are what every
request passes: `limits` says how much the service takes on, `admission` counts it, `metrics` and `log` report it.
`page_files` and the folder `page` are the page. `watching` finds new studies in an archive and `receiving` takes images that
are sent (`dicom_options` and `dicom_connections` say how); `unattended` is what both do with a study. `views` says
which images of a study count, by `view_options`. Nothing is stored but the reports that options ask for, and nothing of an
image or a report is logged.
"""
