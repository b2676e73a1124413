"""Messages between coordinator and nodes: schemas, questions and answers."""
