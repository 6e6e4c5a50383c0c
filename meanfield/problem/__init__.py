"""What is asked: networks, class tasks, data tasks and their features."""
