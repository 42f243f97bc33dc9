"""The people's side: enrolment, decisions and revocations, signed before they reach the queue."""
