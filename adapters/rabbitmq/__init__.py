"""RabbitMQ: requests, dead letters, roll calls and published events."""
