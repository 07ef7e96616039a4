"""Where engines of others take their step times from here."""
