"""Arms of a recipe over seeds: the runs, each a process of its own, and what their results say."""
