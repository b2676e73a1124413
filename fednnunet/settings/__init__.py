"""The typed settings of every program, and the flags that command lines give them with."""
