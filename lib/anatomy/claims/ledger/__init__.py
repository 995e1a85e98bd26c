"""Claims and how they are settled: claim, finding and verdict, the check of each claim, and the page of all."""
