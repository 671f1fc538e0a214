"""Cards, licences and the way to the Hub: functions of a merge's manifest. Imports neither torch nor the engine."""
