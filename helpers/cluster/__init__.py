"""The Spark session, and jobs as lists of units of work (notebook 01)."""
