"""What a task is: its specification, its files and labels, its metrics."""
