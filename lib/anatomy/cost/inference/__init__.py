"""What serving costs: passes, memory, queues, experts and speculation, as pure functions from specs to estimates."""
