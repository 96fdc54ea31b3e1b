"""What figures and reports of runs are made of: numbers, charts, sheets of photos, a page."""
