"""The embedded controller: serves agents on the original endpoints and people on ``/api``."""
