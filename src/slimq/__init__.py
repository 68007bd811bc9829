"""slimq: a slim serverless job queue. POST lines; each line is a durable job."""

__version__ = "0.1.0"
