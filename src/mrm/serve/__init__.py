"""A model as a service on this machine, with a page for people: `mrm serve`.

`server` starts and stops it, `app` holds the routes and `forms` what they take, `answers` what they return, `models` how
the models compute that, `uploads` how an upload is decoded, `worker` the threads that compute and decode. `middleware`
is what every request passes: `limits` says how much the service takes on, `admission` counts it, `metrics` reports it.
page.html, page.css and page.js are the page. Nothing is stored, and nothing of an image or a report is logged.
"""
