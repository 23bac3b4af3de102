"""Firmware: the choice by QEMU's descriptors, and the NVRAM copy of one launch."""
