"""What the matcher is made of: which galleries are in memory, and how they are kept current."""
