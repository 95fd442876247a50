"""What tests stand on: real brokers and databases, services as processes."""
