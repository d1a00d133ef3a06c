"""A million spoilt files over every reader there is: `make campaign`, of which tests/test_campaign.py runs a share."""
