"""The audit trail outside the engine: events exported, old ones trimmed, accounts kept from then."""
