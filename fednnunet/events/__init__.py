"""Events of a run: their schema, files, sinks, and the run state that they reduce to."""
