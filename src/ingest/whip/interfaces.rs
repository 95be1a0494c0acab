//! The machine's own addresses.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ptr,
};

/// Most addresses that candidates are gathered on: each of them costs every session a socket or two.
const MAX_ADDRESSES: usize = 16;

/// Addresses of interfaces that are up, without loopback and IPv6 link-local ones. Empty when they cannot be told.
pub(super) fn addresses() -> Vec<IpAddr> {
    let mut list = ptr::null_mut();
    // SAFETY: `list` is written by the call when it succeeds, and freed below, once.
    if unsafe { libc::getifaddrs(&mut list) } != 0 {
        return Vec::new();
    }
    let mut found = Vec::new();
    let mut next = list;
    // SAFETY: a linked list that lives until freeifaddrs and ends with null.
    while let Some(entry) = unsafe { next.as_ref() } {
        next = entry.ifa_next;
        let up = entry.ifa_flags & libc::IFF_UP as u32 != 0;
        // SAFETY: null or an address of the family that it names, as long as the list.
        let address = unsafe { ip_of(entry.ifa_addr) };
        found.extend(address.filter(|a| up && is_candidate(*a) && !found.contains(a)));
    }
    // SAFETY: got from getifaddrs; nothing points into it any more.
    unsafe { libc::freeifaddrs(list) };
    found.truncate(MAX_ADDRESSES);
    found
}

fn is_candidate(address: IpAddr) -> bool {
    let link_local = matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
    !address.is_loopback() && !address.is_unspecified() && !link_local
}

/// # Safety
/// `address` is null or points to a socket address as long as its family says.
unsafe fn ip_of(address: *const libc::sockaddr) -> Option<IpAddr> {
    // SAFETY: by the contract of this function.
    let family = unsafe { address.as_ref() }?.sa_family;
    match i32::from(family) {
        libc::AF_INET => {
            // SAFETY: the family says that it is this type.
            let v4 = unsafe { address.cast::<libc::sockaddr_in>().read_unaligned() };
            Some(Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: as above.
            let v6 = unsafe { address.cast::<libc::sockaddr_in6>().read_unaligned() };
            Some(Ipv6Addr::from(v6.sin6_addr.s6_addr).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_not_among_them() {
        assert!(addresses().iter().all(|a| is_candidate(*a)));
        for (address, taken) in
            [("127.0.0.1", false), ("fe80::1", false), ("192.0.2.2", true), ("fd00::2", true)]
        {
            assert_eq!(is_candidate(address.parse().expect("an address")), taken, "{address}");
        }
    }
}
