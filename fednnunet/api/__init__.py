"""What programs use FednnU-Net with; `fednnunet` itself gives all of it."""
