"""Control of outgoing messages at a site: policy, gate, approvals and audit log."""
