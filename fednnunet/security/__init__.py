"""Certificates, keys and authentication: decides who may connect."""
