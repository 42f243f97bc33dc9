"""The agent's side of the Secret Broker: ask for a secret by name, get exactly what the policy allows."""
