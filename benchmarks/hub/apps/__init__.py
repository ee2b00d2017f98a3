"""The applications that the systems serve: ``/stream``, and ``POST /publish?n=N``."""
