"""How coordinator and nodes reach each other, and the messages that cross the network."""
