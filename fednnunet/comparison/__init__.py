"""The paper's comparison: local training, AsymFedAvg, FFE and centralized training under the same conditions."""
