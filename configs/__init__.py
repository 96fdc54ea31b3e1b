"""What a run can be told, as values; base.py holds every key."""
