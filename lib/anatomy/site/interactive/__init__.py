"""What answers when it is touched: calculators, frontiers, and the stepper through speculation."""
