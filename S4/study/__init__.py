"""The evidence: many variants of the notebook's recipe, many seeds, and timings."""
