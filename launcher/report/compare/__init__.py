"""From siblings to an answer: aligned metrics, intervals over paired streams, verdicts, tables."""
