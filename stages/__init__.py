"""The stages of the pipeline: one door a file, the core in the rooms beside them."""
