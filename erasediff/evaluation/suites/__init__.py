"""Published benchmarks, one YAML each: what they ask, of which judge, what they need, and what was published."""
