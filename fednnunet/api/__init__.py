"""The Python interface, which `fednnunet` itself exports."""
