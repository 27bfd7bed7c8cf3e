"""Counters and presence as SQLAlchemy's ORM makes them: a session per request, rows changed through objects, inserts with serial keys, an upsert. Unchanged for Ripen.

Usage: sqlalchemy_counters.py prepare | run ROUNDS
"""

import os
import sys
from datetime import datetime, timezone

from sqlalchemy import BigInteger, ForeignKey, create_engine, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship

engine = create_engine(os.environ["DATABASE_URL"].replace("postgres://", "postgresql+psycopg://"))


class Base(DeclarativeBase):
    pass


class Device(Base):
    __tablename__ = "device"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    hits: Mapped[int] = mapped_column(BigInteger, default=0)
    readings: Mapped[list["Reading"]] = relationship(back_populates="device")


class Reading(Base):
    __tablename__ = "reading"
    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    device_id: Mapped[int] = mapped_column(ForeignKey("device.id"), index=True)
    value: Mapped[float]
    device: Mapped[Device] = relationship(back_populates="readings")


class Presence(Base):
    __tablename__ = "presence"
    who: Mapped[str] = mapped_column(primary_key=True)
    seen: Mapped[datetime]


def prepare():
    Base.metadata.create_all(engine)
    with Session(engine) as session, session.begin():
        session.add_all(Device(name=f"d{n}") for n in range(1, 21))


def run(rounds):
    for turn in range(rounds):
        number = turn % 20 + 1
        with Session(engine) as session, session.begin():
            device = session.get(Device, number)
            device.hits += 1
            session.add(Reading(device_id=number, value=turn / 10))
        with Session(engine) as session, session.begin():
            seen = datetime.now(timezone.utc).replace(tzinfo=None)
            upsert = insert(Presence).values(who=f"w{turn % 7}", seen=seen)
            session.execute(upsert.on_conflict_do_update(index_elements=["who"], set_={"seen": upsert.excluded.seen}))
        with Session(engine) as session:
            assert session.get(Presence, f"w{turn % 7}") is not None
            assert session.get(Device, number).hits >= 1
        if turn % 10 == 0:
            with Session(engine) as session, session.begin():
                session.add_all(Reading(device_id=number, value=n) for n in range(5))
            with Session(engine) as session:
                readings = session.scalars(select(Reading).where(Reading.device_id == number)).all()
                assert len(readings) >= 6, len(readings)
    with Session(engine) as session:
        devices = session.scalars(select(Device)).all()
        print(sum(device.hits for device in devices), session.query(Reading).count(), session.query(Presence).count())


if sys.argv[1] == "prepare":
    prepare()
else:
    run(int(sys.argv[2]))
