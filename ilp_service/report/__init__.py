"""What people read: the one-file HTML report and the summary for a terminal."""
