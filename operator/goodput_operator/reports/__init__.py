"""The one HTTP endpoint: the agents report here and are told what to do."""
