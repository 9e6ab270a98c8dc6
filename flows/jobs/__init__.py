"""Everything that imports Prefect: one file a flow, the states that flows end in, where tasks run, registration."""
