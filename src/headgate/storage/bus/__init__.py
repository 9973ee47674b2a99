"""Message brokers: NATS JetStream and Kafka behind `core.bus.Bus`."""
