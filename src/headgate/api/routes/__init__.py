"""The endpoints, one file per resource.

In comes an exchange: a request, its sink and the services.
Out goes the answer, written to the sink; refusals are raised and rendered by the application.
"""
