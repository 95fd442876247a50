"""What `rest` and `page` share about HTTP: who asks, errors as answers, bounded bodies, measurements."""
